"""Who is asking: challenges, credentials and tokens.

A credential goes to the origin that it was configured for, and to the token server that this origin names if the realm
policy allows it; to nobody else. Nothing here shows a secret: not in a repr, not in a log record, not in an error.
"""
