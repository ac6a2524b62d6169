"""talkswap: one face, one clip, one voice in; the dubbed clip out."""

__version__ = "0.1.0"
