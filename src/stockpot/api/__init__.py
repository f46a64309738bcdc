"""What Python and the command line call alike: run, add, resume, compare, whatif and open."""
