"""The journal: what a day brought, by person: runs, the best so far, decisions, time, and what was written down.

days.py       which span of time a day is, where the viewer is
stretches.py  decisions → stretches of uninterrupted looking
day.py        all of a day in one value
markdown.py   the same for a retrospective
routes.py     the same as a page
"""
