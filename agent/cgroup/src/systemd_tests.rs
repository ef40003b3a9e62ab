//! Tests against a fake manager.
