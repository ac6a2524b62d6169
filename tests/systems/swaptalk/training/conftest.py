from tests.train.talking import talking_folder

__all__ = ["talking_folder"]
