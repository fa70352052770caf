"""A local job service over HTTP: pictures and sentences come in, objects, files and reports go out.

    usd serve                                       # http://127.0.0.1:7008/, for this machine only
    usd serve --host 0.0.0.0                        # for the network, and then with a token

A job is a folder (``jobs``) and a task of ``usd.batch``, run by a queue of processes (``job_queue``). The web service
(``service``) stands on both; ``access`` decides who may come in. Nothing depends on a browser that stays open, and a
server that was killed takes its jobs up again from what their folders say.
"""
