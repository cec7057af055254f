"""What makes a pair of a URL and a text, wherever both come from: WAT files (``extract``) or lists that exist (``import``)."""
