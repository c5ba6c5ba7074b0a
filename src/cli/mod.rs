//! Arguments to one call to an exit code; one file per subcommand.
