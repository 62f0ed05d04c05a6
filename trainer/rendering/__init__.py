"""What people look at: facts to rich renderables, without a console and without state."""
