"""A worker that takes jobs from a queue on another host and asks a database on its own: HOST PORT LOCAL_PORT JOBS.

Every second job is done by a process of a pool, as Celery and RQ do it.
"""

import json
import multiprocessing
import sys
import time

from resp import Redis

HOST, PORT, LOCAL_PORT, JOBS = sys.argv[1], *map(int, sys.argv[2:5])


def work(job: bytes) -> str:
    asked = json.loads(job)
    with Redis("127.0.0.1", LOCAL_PORT) as database:
        document = database("GET", asked["document"])
        time.sleep(0.02)
        words = len(document.split())
        database("SET", f"words:{asked['document']}", str(words))
    return json.dumps({"id": asked["id"], "words": words})


with Redis(HOST, PORT) as queue, multiprocessing.Pool(2) as pool:
    for number in range(JOBS):
        _, taken = queue("BLPOP", "jobs", "30")
        result = pool.apply(work, (taken,)) if number % 2 else work(taken)
        queue("RPUSH", "results", result)
