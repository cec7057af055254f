"""The search service: a published dataset's samples by text, image, sample or embedding, over HTTP, and the page that asks it.

In: a dataset with kNN indices. Out: a FastAPI app. Guaranteed: nothing of the dataset is changed but by who holds the token, and
then only by adding (a subset, a report); what a client sends is bounded before it is looked at; no path and no SQL is made of a
client's text; the page asks nobody but this service. What does not belong here: making indices (``search/``), what a subset is
(``subsets/``).

    options.py     what a service is told when it starts
    filters.py     conditions that a client may set, and their SQL
    rows.py        the version's metadata in a local read-only file
    images.py      stored images, read from the shards by ranges
    asked.py       from a request to what it means
    pictures.py    images that a client sends, decoded with care
    encoder.py     the CLIP model that the index was made with
    collection.py  an index with the rows, images and model that belong to it
    queries.py     one search: nearest samples, filtered, folded, counted, in pages
    answers.py     what the service answers
    api.py         the page's protocol: search, details, images
    peer.py        clip-retrieval's protocol
    changes.py     what wants the token: subsets and reports
    guard.py       limits before anything else: hosts, sites, bodies, rates; and the headers after it
    metrics.py     Prometheus' figures
    app.py         the app
    page/          the page: HTML, CSS, ES modules, as served
"""
