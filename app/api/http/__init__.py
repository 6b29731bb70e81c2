"""The machinery under the routes: who calls, what a body may be, pages of lists, conditions, downloads, streams."""
