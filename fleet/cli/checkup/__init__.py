"""What `fleet doctor` looks at by itself, without asking the API."""
