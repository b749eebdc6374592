"""The page of the example shop: pay, break the network at will, and see that the money moves once."""

from .page import add_page

__all__ = ["add_page"]
