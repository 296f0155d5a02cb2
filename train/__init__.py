"""A laboratory for one question: which ingredient of training a convolutional network does what?"""

__version__ = "0.1.0"
