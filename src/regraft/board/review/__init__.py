"""Review: what people should look at, what they decided, and what it changed.

prepare.py   an audit → a desk, kept for the next start
desk.py      the images under review, in arrays
texts.py     many strings in two arrays
order.py     in which order they are shown, with random controls among them
history.py   what the decisions say of each image, kept up to date as they come in
listing.py   states and filters of the queue
cards.py     one image as the page shows it
events.py    what a browser sends → decisions, or a reason why not
progress.py  hit rate, the error rate of the data set, when it pays to stop
exact.py     exact limits of a proportion
pace.py      how long somebody has been looking without a break
refit.py     the score before and after, in the background
routes.py    all that over HTTP
"""
