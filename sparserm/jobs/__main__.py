"""``python -m sparserm.jobs FOLDER`` runs the job in FOLDER."""

import sys
from pathlib import Path

from sparserm.jobs.worker import work

if __name__ == "__main__":
    work(Path(sys.argv[1]))
