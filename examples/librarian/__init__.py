"""The librarian: an agent that knows what is in a folder of text files.

skills.py has its two skills, models.py their results, and files.py and report.py plain code that
does not depend on the fleet.
"""

from examples.librarian.models import FileNotes, Survey
from examples.librarian.skills import librarian, read_file, survey

__all__ = ["FileNotes", "Survey", "librarian", "read_file", "survey"]
