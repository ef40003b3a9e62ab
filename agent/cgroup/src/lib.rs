//! Control groups of pods and containers: v1, hybrid and v2, cgroupfs and systemd.
