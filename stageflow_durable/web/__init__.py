"""What an engine serves by HTTP: small ASGI and WSGI applications without a framework, to be mounted in any other."""
