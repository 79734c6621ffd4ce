"""How good the classifier is, and how sure that is: arrays in, numbers with intervals out."""
