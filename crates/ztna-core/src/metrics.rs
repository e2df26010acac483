//! Counters of a role and their OpenMetrics text.
