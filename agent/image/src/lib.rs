//! Image store: pull, unpack, import, list, remove.
