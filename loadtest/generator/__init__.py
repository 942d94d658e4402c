"""The process that makes the streams. Locust says how many users there are; here they run, in one asyncio loop.

A blocking gRPC stream under gevent costs a native thread and, for each message, twice the processor time of one in an
asyncio loop, which cannot run in Locust's own process. So each of Locust's processes has one of these beside it.
"""
