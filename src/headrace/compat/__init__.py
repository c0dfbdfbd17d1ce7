"""Names of the servers that Headrace takes over from. In a worker this folder is on `sys.path`, behind the archive's own:
`mms` and `ts` are imported from here by those names. Nothing else of the environment's may be called as a file here.
"""
