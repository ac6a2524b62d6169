"""Marks on what talkswap made, and the detector that reads them."""
