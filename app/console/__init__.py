"""The console: pages for officer, engineer and auditor. They show what the API answers, and change what it changes."""
