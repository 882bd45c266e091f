"""General helpers: defaults, files, progress, progress bars of libraries, threads."""
