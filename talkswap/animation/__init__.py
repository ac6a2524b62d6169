"""Speech moves the mesh: Style-SyncFormer (ReSyncer 3.1) and the motion of a whole voice on the voice's own clock."""
