"""How many users one verifier serves: closed-loop clients against co-located speculation and the cloud alone."""
