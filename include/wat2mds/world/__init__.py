"""Worlds: what stands for the web and for Common Crawl where neither is to be asked: the demo's drawings, archives replayed."""
