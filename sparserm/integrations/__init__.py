"""SparseRM in other software: each module needs an extra of the same name and is imported only where it is used."""
