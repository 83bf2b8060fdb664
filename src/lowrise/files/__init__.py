"""Writing so that a crash, a full disk, a signal or a second process leaves nothing half done and loses nothing.

checks.py    what is refused before any work is done       exchange.py  one folder takes another's place in one step
marks.py     what lowrise wrote, and --force may replace   output.py    an output held while a run works, then put there
locks.py     one process at a time                         single.py    one file, whole or not at all
siblings.py  names of what is unfinished, and what dead processes left
sealed.py    JSON with its checksum
"""

from lowrise.files.checks import check_file, check_output
from lowrise.files.output import claimed, claimed_file, held, output_file, output_folder
from lowrise.files.siblings import writing
from lowrise.files.single import write_file

__all__ = [
    "check_file",
    "check_output",
    "claimed",
    "claimed_file",
    "held",
    "output_file",
    "output_folder",
    "write_file",
    "writing",
]
