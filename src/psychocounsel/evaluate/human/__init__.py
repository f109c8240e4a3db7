"""Tests on what people said of replies elsewhere: public human labels, read in place, never bundled."""
