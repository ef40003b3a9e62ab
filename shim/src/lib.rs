//! One process per container: start stages, stdio, log, exec, exit record.
