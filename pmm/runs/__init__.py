"""What a run is: recipe, folder, weights and state; how one is named, loaded and continued."""
