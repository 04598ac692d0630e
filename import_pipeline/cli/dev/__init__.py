"""What `import-pipeline dev` opens: the processes, the webserver with its guard, and how people sign in.

Not here: the command itself (`operating.py`).
"""
