def explain(function, programs, args=(), kwargs=None):
    return None
