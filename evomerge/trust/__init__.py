"""Code that search files name: where it stands, and the consent of the user to run it."""
