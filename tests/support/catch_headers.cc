// Nothing: what is precompiled belongs to its target.
