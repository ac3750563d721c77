"""The Python interface: `import evomerge` offers what is in these files."""
