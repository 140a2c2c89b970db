"""How good a clip is: numbers measured on its pictures and joints, and rules that say which clips are left out."""
