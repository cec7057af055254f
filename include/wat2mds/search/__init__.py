"""kNN indices: the stored image and text embeddings of a version, made searchable.

In: a version of a dataset. Out, below ``search/``, what a version's index is made of, immutable and named by content:

    objects/<digest>.image, .text   two faiss indices, of the image and of the text embeddings
    objects/<digest>.uids           the uids in order, as DataComp has them (numpy u8,u8); a vector's number is its uid's place
    objects/<digest>.rows           for each uid the number of its unit and the lists that its vectors stand in
    objects/<digest>.units          the units' names in the order of their numbers
    000042/<name>.json              the record of version 42's index of that name; created last, which is the commit

Guaranteed: an index holds exactly the samples of its version, and nothing of any other; the same vectors under the same training
give the same bytes whether they were added at once or over many versions; an index stands as long as its version does.
What does not belong here: making embeddings (filter), answering people (the search service).

    index_types.py  which faiss index for how many vectors in how much memory
    records.py      what indices there are
    vectors.py      the stored embeddings of a version, unit by unit
    training.py     a trained, empty index
    lists.py        the vectors' codes in their lists: added, removed
    recall.py       recall against brute force, and how many lists are searched
    assembly.py     the vectors of all units in one index
    building.py     build and update, and their publication
    reading.py      opening an index and searching it
"""
