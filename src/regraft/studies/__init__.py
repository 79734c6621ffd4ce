"""Studies: measured answers to "which one?", on cached features.

rank.py             which backbone: the outline
options.py          what can be set
candidates.py       what is compared: backbones, stages, input sizes, flips, combinations
shelf.py            the curated list behind `auto`, what of it can be reached, and ImageNet accuracies
passes.py           a backbone over the images once, and how fast it was
scores.py           a candidate's features → ridge, nearest neighbours, columns; the solved head for the shortlist
neighbours.py       nearest neighbours without the own group
transferability.py  LogME, H-score, LEEP, GBC: shown, never deciding
source_head.py      the classifier a backbone was trained with, for LEEP
decide.py           paired intervals, ties, the pick, what measuring gained
ranking.py          the result and its JSON
rank_card.py        accuracy against cost as a page
similarity.py       how far the images are from what the backbone was trained on
profile.py          that, as values
activations.py      what the layers of a network see
references.py       crops of photographs, and noise
balance.py          what to do about small classes: the outline, from images to the answer
bakeoff.py          every remedy on the same features and folds, as a table, a choice and a head
remedy_choice.py    paired differences by groups, the simplest that none beats, what choosing flatters
bakeoff_card.py     that, as a picture
"""
