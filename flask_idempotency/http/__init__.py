"""What HTTP says about idempotency keys, for every front end. Werkzeug, no Flask."""
