"""Names of the servers that Headrace takes over from.

In a worker this folder is on `sys.path`, behind the archive's own: `mms` and `ts` are imported from here.
So nothing else of an environment's may be called as a file here is.
"""
