"""The dashboard: what is published, what it cost and what went wrong, as pages for people.

In: a store's root, a dataset's name, a version's number. Out: HTML, and the images of its gallery. Guaranteed: a page reads a bounded
number of objects, however many versions there are (``derived/summaries.py``); it asks no other host; every text of the web is escaped;
nothing of a withdrawn version is shown but its counts. What does not belong here: who may see it, and addresses (the plugin
``wat2mds_dashboard``).

    reading.py     what a page shows, from the store
    gallery.py     random published samples, and their images
    pictures.py    plots of work and history
    sections.py    the parts of a dataset's page
    pages.py       the pages
    style.py       how they look
    page.js        links out of Airflow's frame, and its colours
"""
