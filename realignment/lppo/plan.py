"""The `ppo` part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from jetson_runtime.errors import ConfigError

__all__ = ["PpoPlan"]


@dataclass(frozen=True)
class PpoPlan:
    """L-PPO in `steps` iterations of `groups` groups; a group is `prompts` requests about one picture at one depth.

    `vision_exits`, `decoder_exits` and requests are drawn by curricula (`floor`, `memory`); `text_share` of the groups
    have no picture. Of a picture's requests `visual_share` are questions about it, at the `visual_exits`: an exit that
    sees nothing would only learn to guess. Of the others `harmful_shares` are harmful, a share for each of the
    `decoder_exits` in their order: an exit that refuses too much is asked more benign requests. A share `fresh_share`
    is of those that no stage before has trained on, where the policy still has to learn.
    Each iteration's answers are used in `epochs` epochs of optimizer steps over `groups_per_step` groups.
    `clip`, `gamma`, `gae_decay`, `kl_weight` and `value_weight` are the paper's epsilon, gamma, lambda, eta and c1.
    At every exit, `anchors` questions about a group's picture are held, with `anchor_weight`, to what the reference
    says. The value head learns at `value_rate` times the learning rate. What comes out is the mean of the adapters
    after the last `mean_steps` iterations, because each swings around where refusing ends and answering begins. With
    `bfloat16`, the decoder's products are computed in it (mixed precision: weights, sums and the head stay float32).
    """

    steps: int
    rank: int
    groups: int
    groups_per_step: int
    prompts: int
    epochs: int
    vision_exits: tuple[int, ...]
    decoder_exits: tuple[int, ...]
    text_share: float
    harmful_shares: tuple[float, ...]
    fresh_share: float
    visual_share: float
    visual_exits: tuple[int, ...]
    anchors: int
    anchor_weight: float
    max_new_tokens: int
    temperature: float
    clip: float
    gamma: float
    gae_decay: float
    kl_weight: float
    value_weight: float
    value_rate: float
    learning_rate: float
    warmup_steps: int
    mean_steps: int
    floor: float
    memory: float
    bfloat16: bool

    def __post_init__(self) -> None:
        if len(self.harmful_shares) != len(self.decoder_exits):
            raise ConfigError(
                "the recipe's harmful_shares do not fit its decoder_exits",
                found=f"{len(self.harmful_shares)} shares, {len(self.decoder_exits)} decoder exits",
                expected="a share for each decoder exit, in the same order",
                remedy="add or remove shares",
            )
        if not 1 <= self.mean_steps <= self.steps:
            raise ConfigError(
                "the recipe's mean_steps do not fit its steps",
                found=f"mean_steps {self.mean_steps}, steps {self.steps}",
                expected="1, for the last adapter, to as many as there are steps",
                remedy="change one of them",
            )

    def harmful_share(self, decoder: int) -> float:
        """The share of harmful requests at a decoder exit."""
        return self.harmful_shares[self.decoder_exits.index(decoder)]
