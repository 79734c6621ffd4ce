"""Alembic's revisions of the database, one file each, `versions/vNNNN_WHAT.py`, in one line: NNNN follows NNNN-1."""
