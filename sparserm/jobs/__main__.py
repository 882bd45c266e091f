"""``python -m sparserm.jobs FOLDER`` runs the job in FOLDER."""

import os
import sys
from pathlib import Path

from sparserm.jobs.worker import work

if __name__ == "__main__":
    os.umask(0o077)  # what a job writes is private to the user
    work(Path(sys.argv[1]))
