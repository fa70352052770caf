"""A view in the browser of an object that is being trained, or that is finished.

Only ``server.py``, ``panel.py`` and ``stage.py`` know the library behind the page (viser), which the extra ``viewer``
installs. Nothing here knows the training loop: ``usd.app.viewing`` hands it what there is to show.
"""
