"""The race: which strategy, on the user's own data, how sure, and what would change the answer.

study.py        from a folder of images to an outcome: the outline
race.py         the race itself: arms, evidence, a budget, a clock
arms.py         what races: a protocol, and the solved head
tuned_arm.py    the strategies that train a network
subsets.py      folds and nested subsets: the occasions that all arms share
evidence.py     what was measured, a file a measurement
values.py       metrics under resampled images; the spread between trainings
standing.py     how the arms stand at n, and who is best with what probability
costs.py        what a training will take
allocation.py   who trains next, and who is dropped
curves.py       learning curves, an ensemble of three forms
crossing.py     from how many images on one arm is above another
choose.py       the cheapest that is good enough, or what would make it clear
classes.py      which class's next 50 images would help most
summary.py      from evidence to outcome
outcome.py      the outcome as values and JSON
words.py        the outcome in plain words
card_png.py     the decision card as a picture
card_html.py    the same as a part of a page
"""
