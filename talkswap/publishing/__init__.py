"""From finished training runs to weights that strangers can use: pack, describe, check, push, fetch."""
