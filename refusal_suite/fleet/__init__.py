"""A sweep: many bundles, depths, schedules and prompt sets, cut into units that are computed once, here or on Ray."""
